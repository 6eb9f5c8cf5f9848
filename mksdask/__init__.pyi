from . import (
    bases as bases,
    datasets as datasets,
    descriptors as descriptors,
    homogenization as homogenization,
    importers as importers,
    localization as localization,
    reduction as reduction,
    regression as regression,
    simulation as simulation,
    stats as stats,
    storage as storage,
    structure as structure,
    texture as texture,
    tools as tools,
)
from .bases import (
    FourierBasis as FourierBasis,
    GivenStates as GivenStates,
    GSHBasis as GSHBasis,
    LegendreBasis as LegendreBasis,
    PrimitiveBasis as PrimitiveBasis,
    ProductBasis as ProductBasis,
)
from .compute.operation import plan as plan
from .compute.plans import Plan as Plan
from .compute.progress import progress as progress
from .compute.watching import PartialResult as PartialResult
from .homogenization import (
    MissingPropertyWarning as MissingPropertyWarning,
    MKSHomogenizationModel as MKSHomogenizationModel,
)
from .localization import MKSLocalizationModel as MKSLocalizationModel
from .reduction.extrapolation import ExtrapolationWarning as ExtrapolationWarning
from .stats.windows import sample_windows as sample_windows
from .storage.ensembles import (
    append_ensemble as append_ensemble,
    create_ensemble as create_ensemble,
    open_ensemble as open_ensemble,
)
from .storage.models import load_model as load_model, save_model as save_model
from .storage.repairs import repair as repair
from .storage.verification import verify as verify
from .storage.volumes import create_volume as create_volume, open_volume as open_volume
from .structure import MKSStructureAnalysis as MKSStructureAnalysis

__version__: str
