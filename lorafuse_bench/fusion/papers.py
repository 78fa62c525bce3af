"""The papers that methods are taken from, as methods cite them."""

RETHINKING = "Lee, Rethinking LoRA Merging for Language Model's Multitask Adaptation"
MOA = "Feng et al. 2024, Mixture-of-LoRAs, https://aclanthology.org/2024.lrec-main.994/"
