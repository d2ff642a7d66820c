"""Images of frozen processes: cut, shared, sealed, stored; fetched, verified, laid.

`images.py`       begin, publish, fetch, delete: what a worker calls
`workspace.py`    where images are while they are files: in memory if there is room
`pages.py`        CRIU's page maps: at which address each page was
`mapped.py`       a file as memory, compared where it lies
`packing.py`      a draft becomes packs while CRIU still writes it
`delta.py`        what of an image is new, against its base and all that is stored
`prints.py`       what a page looks like at a glance
`tars.py`         where in a tar the larger files begin
`index.py`        names of what is stored
`shelf.py`        bases at hand
`packs.py`        new content becomes packs
`compression.py`  zstd, where it gains something
`seal.py`         keys, and what is sealed with them
`manifest.py`     what an image consists of
`lay.py`          an image becomes files again
`later.py`        and what of its memory doesn't
`lately.py`       frames that were opened lately, for the next one
`scrub.py`        read and verify everything; prove that a deletion takes nothing from anybody

It knows objects, keys and CRIU's files; nothing of runs, of the engine or of HTTP.
"""

from torpor.images.images import Images, Laid, Published
from torpor.images.later import Later
from torpor.images.packing import FILES, Draft
from torpor.images.scrub import Scrubbed, needed_by, scrub
from torpor.images.seal import Keyring
from torpor.images.workspace import Workspace

__all__ = [
    "FILES",
    "Draft",
    "Images",
    "Keyring",
    "Laid",
    "Later",
    "Published",
    "Scrubbed",
    "Workspace",
    "needed_by",
    "scrub",
]
