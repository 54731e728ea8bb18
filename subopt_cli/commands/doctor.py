"""`subopt doctor`: the environment block for a bug report."""

from __future__ import annotations

from ._options import Debug, Device, Json


def doctor(device: Device = None, as_json: Json = False, debug: Debug = False) -> None:
    """Print and check the environment, for a bug report."""
    from subopt.profilers.device import environment, gpu_status, resolve_device

    from ..output import Output
    from ..render_environment import concerns, environment_facts

    output = Output(as_json=as_json)
    found, gpu = environment(resolve_device(device)), gpu_status()
    output.document(found.model_dump(mode="json"))
    output.show(environment_facts(found, gpu))
    for concern in concerns(found, gpu):
        output.warning(concern)
