"""What server and worker say to each other over HTTP. JSON both ways, `Authorization: Bearer <worker token>`.

`worker.py`     what a worker says of itself, and asks for     `images.py`     checkpoints, and what is stored of them
`run.py`        what it reports of a run that it holds         `user_code.py`  what user code asks, on its run's behalf

    POST /worker/v1/hello                    Introduction      -> Welcome
    POST /worker/v1/versions                 VersionReport     -> VersionAccepted
    POST /worker/v1/dequeue                  DequeueRequest    -> DequeueReply      (held open up to wait_s for work)
    GET  /worker/v1/news?worker_id=&instance_id=   a long-lived stream, one News as JSON per line, "\\n" as keep-alive
    POST /worker/v1/heartbeat                HeartbeatRequest  -> HeartbeatReply
    POST /worker/v1/keys                     KeysRequest       -> KeysReply         (what images are sealed with)
    POST /worker/v1/variables                VariablesRequest  -> VariablesReply    (of all runs; never logged)
    POST /worker/v1/checkpoints              CheckpointCensus  -> CheckpointCensus  (which of these to keep)
    POST /worker/v1/garbage                  GarbageRequest    -> GarbageReply      (which objects to delete)
    POST /worker/v1/images                   ImagesRequest     -> ImagesReply       (what the store must hold)
    POST /worker/v1/warm                     WarmReport        -> LeaseReply
    POST /worker/v1/warm/find                WarmRequest       -> WarmFound
    POST /worker/v1/warm/refuse              WarmRefusal       -> LeaseReply
    POST /worker/v1/runs/{run_id}/payload    PayloadCall       -> the payload, as JSON
    POST /worker/v1/runs/{run_id}/start      StartReport       -> LeaseReply
    POST /worker/v1/runs/{run_id}/block      BlockReport       -> BlockReply
    POST /worker/v1/runs/{run_id}/collect    CollectRequest    -> BlockReply
    POST /worker/v1/runs/{run_id}/suspend    SuspendReport     -> LeaseReply
    POST /worker/v1/runs/{run_id}/save       SaveReport        -> LeaseReply
    POST /worker/v1/runs/{run_id}/move       MoveReport        -> LeaseReply
    POST /worker/v1/runs/{run_id}/refuse     Refusal           -> LeaseReply
    POST /worker/v1/runs/{run_id}/finish     FinishReport      -> LeaseReply
    POST /worker/v1/runs/{run_id}/events     EventReport       -> LeaseReply
    POST /worker/v1/runs/{run_id}/logs       LogReport         -> {}
    POST /worker/v1/runs/{run_id}/trigger            TriggerCall       -> TriggerReply      (from user code, on the run's behalf)
    POST /worker/v1/runs/{run_id}/batches            BatchCall         -> BatchReply
    POST /worker/v1/runs/{run_id}/batches/items      BatchItemsCall    -> BatchItemsReply
    POST /worker/v1/runs/{run_id}/batches/results    BatchResultsCall  -> BatchResultsReply
    POST /worker/v1/runs/{run_id}/tokens             TokenCall         -> TokenReply
    POST /worker/v1/runs/{run_id}/tokens/complete    CompleteTokenCall -> {"success": true}
    POST /worker/v1/runs/{run_id}/metadata           MetadataReport    -> MetadataReply
    POST /worker/v1/runs/{run_id}/streams            StreamReport      -> StreamReply
    POST /worker/v1/runs/{run_id}/inputs             InputRead         -> InputReply        (held open up to wait_s)

Every message is idempotent: it carries the lease number, and ids that the sender made. A message with an old lease
changes nothing and is answered `stale`: the worker kills that process. Errors are `{"error": "…"}` as in the public API.
The headers OF_PROJECT and OF_ENVIRONMENT name the environment that the worker serves; without one that is as of the server's own.
"""

from torpor.wire.http.images import (
    CheckpointCensus,
    GarbageReply,
    GarbageRequest,
    ImagesReply,
    ImagesRequest,
    LiveImage,
    Pack,
    StoredCheckpoint,
    WarmFound,
    WarmRefusal,
    WarmReport,
    WarmRequest,
)
from torpor.wire.http.run import (
    BlockReply,
    BlockReport,
    CollectRequest,
    EventReport,
    FinishReport,
    LeaseReply,
    LogLine,
    LogReport,
    MoveReport,
    OpenWait,
    OutOfMemory,
    PayloadCall,
    Refusal,
    SaveReport,
    StartReport,
    StoryEvent,
    SuspendReport,
    Usage,
)
from torpor.wire.http.user_code import (
    BatchCall,
    BatchItemCall,
    BatchItemReply,
    BatchItemsCall,
    BatchItemsReply,
    BatchReply,
    BatchResult,
    BatchResultsCall,
    BatchResultsReply,
    CompleteTokenCall,
    InputPart,
    InputRead,
    InputReply,
    MetadataReply,
    MetadataReport,
    StreamReply,
    StreamReport,
    TokenCall,
    TokenReply,
    TriggerCall,
    TriggerReply,
)
from torpor.wire.http.worker import (
    Assignment,
    DataKey,
    DequeueReply,
    DequeueRequest,
    Disk,
    HeartbeatReply,
    HeartbeatRequest,
    HeldLease,
    Introduction,
    KeysReply,
    KeysRequest,
    News,
    VariablesReply,
    VariablesRequest,
    VersionAccepted,
    VersionReport,
    Welcome,
)

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_CHUNK_ITEMS",
    "MAX_OUTPUT_BYTES",
    "OF_ENVIRONMENT",
    "OF_PROJECT",
    "RESULTS_BYTES",
    "Assignment",
    "BatchCall",
    "BatchItemCall",
    "BatchItemReply",
    "BatchItemsCall",
    "BatchItemsReply",
    "BatchReply",
    "BatchResult",
    "BatchResultsCall",
    "BatchResultsReply",
    "BlockReply",
    "BlockReport",
    "CheckpointCensus",
    "CollectRequest",
    "CompleteTokenCall",
    "DataKey",
    "DequeueReply",
    "DequeueRequest",
    "Disk",
    "EventReport",
    "FinishReport",
    "GarbageReply",
    "GarbageRequest",
    "HeartbeatReply",
    "HeartbeatRequest",
    "HeldLease",
    "ImagesReply",
    "ImagesRequest",
    "InputPart",
    "InputRead",
    "InputReply",
    "Introduction",
    "KeysReply",
    "KeysRequest",
    "LeaseReply",
    "LiveImage",
    "LogLine",
    "LogReport",
    "MetadataReply",
    "MetadataReport",
    "MoveReport",
    "News",
    "OpenWait",
    "OutOfMemory",
    "Pack",
    "PayloadCall",
    "Refusal",
    "SaveReport",
    "StartReport",
    "StoredCheckpoint",
    "StoryEvent",
    "StreamReply",
    "StreamReport",
    "SuspendReport",
    "TokenCall",
    "TokenReply",
    "TriggerCall",
    "TriggerReply",
    "Usage",
    "VariablesReply",
    "VariablesRequest",
    "VersionAccepted",
    "VersionReport",
    "WarmFound",
    "WarmRefusal",
    "WarmReport",
    "WarmRequest",
    "Welcome",
]

OF_PROJECT, OF_ENVIRONMENT = "x-torpor-project", "x-torpor-environment"
MAX_BODY_BYTES = 32 << 20
"""The largest message that the server takes from a worker."""
MAX_OUTPUT_BYTES = MAX_BODY_BYTES - (1 << 20)
"""The largest output of a task, as JSON: it travels in such a message."""
MAX_CHUNK_ITEMS = 500
"""The most items of a batch in one message."""
RESULTS_BYTES = 8 << 20
"""How many bytes of outputs one page of a batch's results holds, about; a larger output is a page of its own."""
