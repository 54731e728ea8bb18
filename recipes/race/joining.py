"""A race's result and the profile it belongs to."""

from __future__ import annotations

from subopt.profilers.record.profile import Profile, Race


def joined(profile: Profile, race: Race) -> Profile | None:
    """Return the profile with the race in it; None where the race compared nothing, or not on this profile's model.

    An earlier race in the profile gives way: two are not comparable, as they differ in horizon or step times.
    """
    compared = sum(bool(contestant.losses) for contestant in race.contestants)
    is_same_model = profile.target.sha256 == race.target_sha256
    if compared < 2 or not is_same_model:
        return None
    return profile.model_copy(update={"race": race})
