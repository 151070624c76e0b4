from tests.support.fixtures import backend as backend
from tests.support.fixtures import receiver as receiver
from tests.support.fixtures import store as store
from tests.support.fixtures import tenant as tenant
