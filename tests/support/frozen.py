"""The last thing that the process which is forked imports: what it has until then stays, and to
walk it costs a fork a third of a second each time.
"""

import gc

from sqlalchemy.orm import configure_mappers

configure_mappers()
gc.collect()
gc.freeze()
