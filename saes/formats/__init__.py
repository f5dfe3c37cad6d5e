"""SAEs and feature indexes in the formats of other tools: read from sparsify, dictionary_learning and SAELens, written
for SAELens and Neuronpedia."""
