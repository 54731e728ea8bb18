"""`subopt doctor`: the environment block for a bug report."""

from __future__ import annotations

from ._options import Debug, Device, Json


def doctor(device: Device = None, as_json: Json = False, debug: Debug = False) -> None:
    """Print and check the environment, for a bug report; and how accurate earlier runs' predictions were."""
    from subopt.profilers.device import environment, gpu_status, resolve_device
    from subopt.profilers.history.accuracy import history_summary

    from ..terminal.doctor import concerns, environment_facts, history_table
    from ..terminal.output import Output

    output = Output(as_json=as_json)
    found, gpu, kept = environment(resolve_device(device)), gpu_status(), history_summary()
    output.document(found.model_dump(mode="json") | {"history": kept.model_dump(mode="json")})
    output.show(environment_facts(found, gpu), history_table(kept))
    for concern in concerns(found, gpu):
        output.warning(concern)
