from .ensembles import (
    append_ensemble as append_ensemble,
    create_ensemble as create_ensemble,
    open_ensemble as open_ensemble,
)
from .microstructures import (
    open_store as open_store,
)
from .repairs import (
    repair as repair,
)
from .results import (
    materialize as materialize,
)
from .verification import (
    verify as verify,
)
from .volumes import (
    create_volume as create_volume,
    open_volume as open_volume,
)
