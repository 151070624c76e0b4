from tests.support.fixtures import backend as backend
from tests.support.fixtures import store as store
from tests.support.fixtures import tenant as tenant
