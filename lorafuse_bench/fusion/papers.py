"""The papers that methods are taken from, as methods cite them."""

RETHINKING = "Lee, Rethinking LoRA Merging for Language Model's Multitask Adaptation"
SPECTR = "Fleshman and Van Durme 2025, SpectR: Dynamically Composing LM Experts with Spectral Routing"
ARROW = "Ostapenko et al. 2024, Towards Modular LLMs by Building and Reusing a Library of LoRAs"
TRADEOFFS = "the trade-offs of ensembling, merging and routing"
MOA = "Feng et al. 2024, Mixture-of-LoRAs, https://aclanthology.org/2024.lrec-main.994/"
