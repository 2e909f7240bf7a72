"""What can be wrong with a selector, a strategy, or a move of a deployment."""


class RolloutError(Exception):
    """A deployment cannot be described or moved as asked.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "rollout-error"
    hint = "Look at the deployment's state."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class IllegalMove(RolloutError):
    """The state that a deployment is in does not lead to the one that was asked for."""

    code = "illegal-move"


class BadSelector(RolloutError):
    """A selector does not parse; `position` is the character at which it goes wrong, from 0."""

    code = "bad-selector"
    hint = "Write conditions with commas between: gpu=true,region in (us-east,us-west),!legacy."

    def __init__(self, message: str, *, position: int) -> None:
        super().__init__(f"{message} (at character {position})")
        self.position = position


class BadStrategy(RolloutError):
    """A strategy contradicts itself or has a part that this version does not know."""

    code = "bad-strategy"
    hint = "Give stages with rising percentages, the last of them 100."


class StageTooSmall(RolloutError):
    """The first stage cannot hold an agent for each value of the tag that it is stratified by."""

    code = "stage-too-small"
    hint = "Raise the first stage's percentage, or stratify by a tag with fewer values."
