"""What can go wrong, each with its HTTP status: raised anywhere, carried across processes, rendered per protocol."""

from typing import ClassVar


class ServerError(Exception):
    """An error the client is told about; `message` says what to do and holds no secret and no internals."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    # Where it is not said with the error: None for errors that waiting does not mend.
    usual_retry_after_s: ClassVar[float | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.error_code = code if code is not None else type(self).code
        self.retry_after_s = retry_after_s if retry_after_s is not None else type(self).usual_retry_after_s


class InvalidRequest(ServerError):
    """The request itself is wrong; sending it again unchanged cannot succeed."""

    status = 400
    type = "invalid_request_error"


class UnsupportedField(InvalidRequest):
    """A field of the public API that this server knows and does not support."""

    code = "unsupported_parameter"

    def __init__(self, param: str, advice: str = "") -> None:
        super().__init__(f"'{param}' is not supported by this server{advice and f'; {advice}'}.", param=param)


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit the model's context."""

    code = "context_length_exceeded"


class Unauthorized(ServerError):
    """No API key, or a wrong one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(ServerError):
    """The API key is valid, and not enough for this."""

    status = 403
    type = "permission_error"
    code = "admin_key_required"


class NotFound(ServerError):
    """No such route, or no such object."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """The named model is not served here."""

    code = "model_not_found"


class MethodNotAllowed(ServerError):
    """The route exists, the method does not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, message: str, *, param: str | None = None, allowed: str = "") -> None:
        super().__init__(message, param=param)
        self.allowed = allowed


class Conflict(ServerError):
    """What is asked for does not go with the state that something is in."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class BodyTooLarge(ServerError):
    """The body is larger than the configured limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class QueueFull(ServerError):
    """Every slot is taken and the waiting line is full."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    usual_retry_after_s = 1.0


class RateLimited(ServerError):
    """The API key has used up what it may use now."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Unavailable(ServerError):
    """The server cannot serve this now, and may be able to later."""

    status = 503
    type = "server_error"
    code = "unavailable"
    usual_retry_after_s = 30.0


class QueueTimeout(Unavailable):
    """The request waited for a slot longer than the queue timeout."""

    code = "queue_timeout"


class ShuttingDown(Unavailable):
    """The server is stopping."""

    code = "shutting_down"


class ModelUnavailable(Unavailable):
    """The model's worker died or could not be loaded."""

    code = "model_unavailable"


class OutOfMemory(ModelUnavailable):
    """What the model wanted for this request was more memory than there is."""

    code = "out_of_memory"


class ModelLoadError(ModelUnavailable):
    """The model cannot be loaded; the message says why and what to do."""

    code = "model_load_failed"


class RequestTimeout(ServerError):
    """The request ran longer than the request timeout; its generation was ended."""

    status = 504
    type = "server_error"
    code = "request_timeout"


class ClientGone(ServerError):
    """The client hung up; nobody reads this answer, the access log shows its status."""

    status = 499
    type = "client_disconnected"


class InternalError(ServerError):
    """A defect of this server; the details are in its log under the request id."""

    code = "internal_error"

    def __init__(self, message: str = "The server failed while handling this request; its log says why.") -> None:
        super().__init__(message)
