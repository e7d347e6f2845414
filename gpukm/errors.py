"""Every error gpukm raises on purpose.

::

    GpukmError
    ├── ConfigError (ValueError)      a setting or an option is wrong               exit 2
    ├── DataError (ValueError)        the data cannot be clustered as it is         exit 2
    ├── BackendUnavailableError       what was asked for is not on this machine     exit 6
    ├── ExecutorError                 the machinery that runs shards failed         exit 6
    ├── SnapshotNotFoundError         no such store, model or snapshot              exit 2
    │   └── JobNotFoundError          no such job                                   exit 2
    ├── SnapshotCorruptError          stored bytes are not the bytes written        exit 4
    └── SnapshotConflictError         somebody else changed what we build on        exit 5
        └── JobEndedError             it is too late for what is asked of a job     exit 5

A message says what was got, what was expected and what to do next.
"""


class GpukmError(Exception):
    """Base of all errors raised by gpukm; catch this one to catch them all."""


class ConfigError(GpukmError, ValueError):
    """A setting is out of range, unknown, or contradicts another one."""


class DataError(GpukmError, ValueError):
    """The data cannot be clustered as it is: missing, malformed, not finite, too few rows."""


class BackendUnavailableError(GpukmError):
    """An explicitly named backend or device is not usable on this machine."""


class ExecutorError(GpukmError):
    """The machinery that runs shards failed, not the algorithm."""


class SnapshotNotFoundError(GpukmError):
    """A store, model or snapshot does not exist where it was looked for."""


class SnapshotCorruptError(GpukmError):
    """Stored bytes differ from the bytes that were written."""


class SnapshotConflictError(GpukmError):
    """The store changed under an operation that must not be retried blindly."""


class JobNotFoundError(SnapshotNotFoundError):
    """A job does not exist in the store where it was looked for."""


class JobEndedError(SnapshotConflictError):
    """A job has ended, or is about to, so that what is asked of it cannot be done any more."""
