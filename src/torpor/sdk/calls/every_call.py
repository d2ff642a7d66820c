"""All calls of the API that both clients have."""

from torpor.sdk.calls.batches import Batches
from torpor.sdk.calls.bulk import BulkActions
from torpor.sdk.calls.checkpoints import Checkpoints
from torpor.sdk.calls.environments import Environments
from torpor.sdk.calls.inventory import Inventory
from torpor.sdk.calls.keys import Keys
from torpor.sdk.calls.queries import Queries
from torpor.sdk.calls.queues import Queues
from torpor.sdk.calls.runs import Runs
from torpor.sdk.calls.schedules import Schedules
from torpor.sdk.calls.stories import Stories
from torpor.sdk.calls.subscriptions import Subscriptions
from torpor.sdk.calls.triggers import Triggers
from torpor.sdk.calls.variables import Variables
from torpor.sdk.calls.waitpoints import Waitpoints


class EveryCall(
    Triggers,
    Runs,
    Stories,
    Subscriptions,
    Batches,
    BulkActions,
    Checkpoints,
    Waitpoints,
    Schedules,
    Queues,
    Queries,
    Inventory,
    Variables,
    Environments,
    Keys,
):
    """Each is written once, as what it asks; a client's door makes it block or be awaited (doors.py)."""
