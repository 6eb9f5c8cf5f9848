from .chords import (
    chord_lengths as chord_lengths,
    lineal_path as lineal_path,
)
from .cluster_function import (
    correlate_clusters as correlate_clusters,
    correlate_volume_clusters as correlate_volume_clusters,
)
from .clusters import (
    cluster_statistics as cluster_statistics,
    label_clusters as label_clusters,
)
from .correlation import (
    autocorrelate as autocorrelate,
    correlate as correlate,
    crosscorrelate as crosscorrelate,
)
from .distances import (
    distance_map as distance_map,
    local_thickness as local_thickness,
    pore_sizes as pore_sizes,
)
from .radial import (
    integral_range as integral_range,
    pair_correlation as pair_correlation,
    radial_average as radial_average,
    specific_surface as specific_surface,
)
from .reconstruction import (
    reconstruct as reconstruct,
)
from .representativity import (
    mean_interval as mean_interval,
    phase_fraction_interval as phase_fraction_interval,
    representative_size as representative_size,
)
from .surfaces import (
    correlate_surfaces as correlate_surfaces,
    correlate_volume_surfaces as correlate_volume_surfaces,
)
from .three_points import (
    correlate3 as correlate3,
)
from .transformer import (
    TwoPointStatistics as TwoPointStatistics,
)
from .volume import (
    correlate_volume as correlate_volume,
)
from .volume_three_points import (
    correlate_volume3 as correlate_volume3,
)
