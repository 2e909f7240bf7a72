"""The second factor: one-time codes of an authenticator app (TOTP, RFC 6238), and stepping up."""

from tensorguard.services.errors import Denied


class PersonRequired(Denied):
    """An API key, or a session that has ended, asks for what only a person may do."""

    code = "person-required"
    hint = "Sign in as a person: an API key cannot do this."


class SecondFactorMissing(Denied):
    """The user has no second factor that could be shown."""

    code = "second-factor-missing"
    hint = "Set up an authenticator app for your account first: POST /api/v1/session/second-factor."


class StepUpRequired(Denied):
    """The session has not shown a code of the second factor in the last ten minutes."""

    code = "step-up-required"
    hint = "Show a code of your authenticator app: POST /api/v1/session/step-up."
