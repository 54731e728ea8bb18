"""A race's result and the profile it belongs to."""

from __future__ import annotations

from subopt.profilers.record.profile import Profile, Race


def joined(profile: Profile, race: Race) -> Profile | None:
    """Return the profile with the race in it; None where the race compared nothing, or not on this profile's model.

    Rates of a single method are a comparison too. An earlier race in the profile gives way: two are not comparable, as
    they differ in length or step times.
    """
    compared = sum(trial.loss is not None for trial in race.trials)
    is_same_model = profile.target.sha256 == race.target_sha256
    if compared < 2 or not is_same_model:
        return None
    return profile.model_copy(update={"race": race})
