"""The papers that methods are taken from, as methods cite them."""

RETHINKING = "Lee, Rethinking LoRA Merging for Language Model's Multitask Adaptation"
SPECTR = "Fleshman and Van Durme 2025, SpectR: Dynamically Composing LM Experts with Spectral Routing"
ARROW = "Ostapenko et al. 2024, Towards Modular LLMs by Building and Reusing a Library of LoRAs"
TRADEOFFS = "the trade-offs of ensembling, merging and routing"
MOA = "Feng et al. 2024, Mixture-of-LoRAs, https://aclanthology.org/2024.lrec-main.994/"
TIES = "Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models, arXiv 2306.01708"
DARE = "Yu et al. 2024, Language Models are Super Mario, arXiv 2311.03099"
KNOTS = "Stoica et al. 2025, Model Merging with SVD to Tie the KnOTS, arXiv 2410.19735"
LORA = "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685"
MOORE = "Yuan et al. 2025, MoORE: SVD-based Model MoE-ization for Multi-Task Adaptation, arXiv 2506.14436"
LORAMOE = "Dou et al. 2024, LoRAMoE: Alleviating World Knowledge Forgetting in Large Language Models, arXiv 2312.09979"
MIXLORA = "Li et al. 2024, MixLoRA: Enhancing Large Language Models Fine-Tuning with LoRA-based MoE, arXiv 2404.15159"
MOSLD = "Zhao et al. 2025, MoSLD: An Extremely Parameter-Efficient Mixture-of-Shared LoRAs, arXiv 2412.08946"
HYDRALORA = (
    "Tian et al. 2024, HydraLoRA: An Asymmetric LoRA Architecture for Efficient Fine-Tuning, arXiv 2404.19245"
)
MTL_LORA = "Yang et al. 2025, MTL-LoRA: Low-Rank Adaptation for Multi-Task Learning, arXiv 2410.09437"
OMOE = "Feng et al. 2025, OMoE: Diversifying Mixture of Low-Rank Adaptation by Orthogonal Finetuning, arXiv 2501.10062"
TSV = "Gargiulo et al. 2025, Task Singular Vectors: Reducing Task Interference in Model Merging, arXiv 2412.00081"
ISO = "Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging, arXiv 2502.04959"
CORE_SPACE = (
    "Panariello et al. 2025, Accurate and Efficient Low-Rank Model Merging in Core Space, arXiv 2509.17786"
)
BREADCRUMBS = "Davari and Belilovsky 2024, Model Breadcrumbs, arXiv 2312.06795"
DELLA = "Deep et al. 2024, DELLA-Merging: Reducing Interference through Magnitude-Based Sampling, arXiv 2406.11617"
SCE = "Wan et al. 2024, FuseChat: Knowledge Fusion of Chat Models, arXiv 2408.07990"
PEFT = "Mangrulkar et al. 2022, PEFT, its merge methods"
PHATGOOSE = (
    "Muqeeth et al. 2024, Learning to Route Among Specialized Experts for Zero-Shot Generalization,"
    " arXiv 2402.05859"
)
LORAHUB = (
    "Huang et al. 2023, LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition,"
    " arXiv 2307.13269"
)
LORA_SOUPS = (
    "Prabhakar et al. 2024, LoRA Soups: Merging LoRAs for Practical Skill Composition Tasks, arXiv 2410.13025"
)
REGMEAN = "Jin et al. 2023, Dataless Knowledge Fusion by Merging Weights of Language Models, arXiv 2212.09849"
FISHER = "Matena and Raffel 2022, Merging Models with Fisher-Weighted Averaging, arXiv 2111.09832"
ADAMERGING = "Yang et al. 2024, AdaMerging: Adaptive Model Merging for Multi-Task Learning, arXiv 2310.02575"
