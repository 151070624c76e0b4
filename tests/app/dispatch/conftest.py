from tests.worker.conftest import embedded_backend as embedded_backend
