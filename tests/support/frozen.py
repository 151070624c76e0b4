"""The last thing that the process which is forked imports: no fork looks again through what it has
from there when it collects garbage, nor copies it for that.
"""

import gc

from sqlalchemy.orm import configure_mappers

configure_mappers()
gc.collect()
gc.freeze()
