"""Grokking: a transformer learns addition modulo p, first by heart and much later by Fourier series.

Sources: Power et al. 2022, "Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets" (arXiv
2201.02177); Nanda et al. 2023, "Progress Measures for Grokking via Mechanistic Interpretability" (arXiv 2301.05217),
"the paper" in this package.
"""
