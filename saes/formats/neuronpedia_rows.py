"""The rows of Neuronpedia's bulk import, field by field (`neuronpedia_export.py` and `prisma/schema.prisma` there).

A row's fields are in the order and spelling of the site. None becomes null: the site fills it in or does without.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Release:
    name: str
    description: str
    creatorName: str
    creatorId: str
    createdAt: str
    visibility: str = "PRIVATE"
    isNewUi: bool = True
    featured: bool = False
    descriptionShort: str | None = None
    urls: list[str] = field(default_factory=list)
    creatorEmail: str | None = None
    creatorNameShort: str | None = None
    defaultSourceSetName: str | None = None
    defaultSourceId: str | None = None
    defaultUmapSourceIds: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Model:
    id: str
    creatorId: str
    displayNameShort: str
    displayName: str
    dimension: int
    layers: int
    neuronsPerLayer: int
    createdAt: str
    updatedAt: str
    owner: str
    instruct: bool = False
    tlensId: str | None = None
    visibility: str = "PRIVATE"
    defaultSourceSetName: str | None = None
    defaultSourceId: str | None = None
    inferenceEnabled: bool = False
    website: str | None = None


@dataclass(frozen=True)
class SourceSet:
    modelId: str
    name: str
    creatorId: str
    description: str
    type: str
    creatorName: str
    releaseName: str
    createdAt: str
    hasDashboards: bool = True
    visibility: str = "PRIVATE"
    urls: list[str] = field(default_factory=list)
    creatorEmail: str | None = None
    defaultOfModelId: str | None = None
    defaultRange: int = 1
    defaultShowBreaks: bool = True
    showDfa: bool = False
    showCorrelated: bool = False
    showHeadAttribution: bool = False
    showUmap: bool = False


@dataclass(frozen=True)
class Source:
    id: str
    modelId: str
    setName: str
    creatorId: str
    num_prompts: int
    num_tokens_in_prompt: int
    dataset: str
    createdAt: str
    saelensConfig: dict
    hasDashboards: bool = True
    inferenceEnabled: bool = False
    inferenceHosts: list[str] = field(default_factory=list)
    saelensRelease: str | None = None
    saelensSaeId: str | None = None
    hfRepoId: str | None = None
    hfFolderId: str | None = None
    visibility: str = "PRIVATE"
    defaultOfModelId: str | None = None
    hasUmap: bool = False
    hasUmapLogSparsity: bool = False
    hasUmapClusters: bool = False
    notes: str | None = None


@dataclass(frozen=True)
class Feature:
    modelId: str
    layer: str
    """The id of the source, `{layer}-{set}`."""
    index: str
    creatorId: str
    createdAt: str
    maxActApprox: float
    vector: list[float]
    vectorDefaultSteerStrength: float
    hookName: str
    topkCosSimIndices: list[int]
    topkCosSimValues: list[float]
    neuron_alignment_indices: list[int]
    """The dimensions in which the decoder's direction is largest, the values there, and these over its L1 norm."""
    neuron_alignment_values: list[float]
    neuron_alignment_l1: list[float]
    neg_str: list[str]
    neg_values: list[float]
    pos_str: list[str]
    pos_values: list[float]
    frac_nonzero: float
    freq_hist_data_bar_heights: list[float]
    freq_hist_data_bar_values: list[float]
    """Centres of the bins."""
    logits_hist_data_bar_heights: list[float]
    logits_hist_data_bar_values: list[float]
    sourceSetName: str
    hasVector: bool = True
    vectorLabel: str | None = None
    correlated_neurons_indices: list[int] = field(default_factory=list)
    correlated_neurons_pearson: list[float] = field(default_factory=list)
    correlated_neurons_l1: list[float] = field(default_factory=list)
    correlated_features_indices: list[int] = field(default_factory=list)
    correlated_features_pearson: list[float] = field(default_factory=list)
    correlated_features_l1: list[float] = field(default_factory=list)
    decoder_weights_dist: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Activation:
    id: str
    tokens: list[str]
    index: str
    layer: str
    modelId: str
    maxValue: float
    maxValueTokenIndex: int
    minValue: float
    values: list[float]
    creatorId: str
    dataSource: str
    dataIndex: str
    createdAt: str
    binMin: float
    """-1, with `binContains` -1, for the top examples."""
    binMax: float
    binContains: float
    """The share of all tokens whose activation lies in the interval."""
    qualifyingTokenIndex: int
    dfaValues: list[float] = field(default_factory=list)
    dfaTargetIndex: int | None = None
    dfaMaxValue: float | None = None
    lossValues: list[float] = field(default_factory=list)
    logitContributions: str | None = None
    zIndices: list[list[int]] | None = None
    zValues: list[float] | None = None
