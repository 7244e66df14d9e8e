"""The numbers that the paper prints, and the settings that they belong to."""

import math

# Section 4.1, Figure 2: what it compares, in its order, and at which ratios of the two classes.
IMBALANCE_METHODS = ("baseline", "proportion", "resample", "hard_mining", "random", "reweight")
IMBALANCE_RATIOS = (10.0, 20.0, 50.0, 100.0, 200.0)

# Section 4.2, Tables 1 and 2: methods that use the noisy data only, then those with clean data.
NOISE_METHODS = ("baseline", "random", "weighted", "reed_soft", "reed_hard", "s_model")
NOISE_METHODS += ("s_model_conf", "mentornet", "clean_only", "reweight")
NOISE_RATIO = 0.4
# (noise, data set) -> (model, num_clean) of the paper's number.
NOISE_SETTINGS = {
    ("uniform_flip", "cifar10"): ("wide_resnet-28-10", 1_000),
    ("uniform_flip", "cifar100"): ("wide_resnet-28-10", 1_000),
    ("background_flip", "cifar10"): ("resnet-32-1", 100),
    ("background_flip", "cifar100"): ("resnet-32-1", 1_000),
}
NAN = math.nan
# noise -> (method, choice of model) -> for CIFAR-10 and CIFAR-100: test accuracy in percent and its
# 95% interval over five trials. MentorNet's numbers have no interval.
NOISE_ACCURACY = {
    "uniform_flip": {
        ("baseline", ""): ((67.97, 0.62), (50.66, 0.24)),
        ("reed_hard", ""): ((69.66, 1.21), (51.34, 0.17)),
        ("s_model", ""): ((70.64, 3.09), (49.10, 0.58)),
        ("mentornet", ""): ((76.6, NAN), (56.9, NAN)),
        ("random", ""): ((86.06, 0.32), (58.01, 0.37)),
        ("clean_only", ""): ((46.64, 3.90), (9.94, 0.82)),
        ("baseline", "+FT"): ((78.66, 0.44), (54.52, 0.40)),
        ("mentornet", "+FT"): ((78.0, NAN), (59.0, NAN)),
        ("random", "+FT"): ((86.55, 0.24), (58.54, 0.52)),
        ("reweight", ""): ((86.92, 0.19), (61.34, 2.06)),
    },
    "background_flip": {
        ("baseline", ""): ((59.54, 2.16), (37.82, 0.69)),
        ("baseline", "+ES"): ((64.96, 1.19), (39.08, 0.65)),
        ("random", ""): ((69.51, 1.36), (36.56, 0.44)),
        ("weighted", ""): ((79.17, 1.36), (36.56, 0.44)),
        ("reed_soft", "+ES"): ((63.47, 1.05), (38.44, 0.90)),
        ("reed_hard", "+ES"): ((65.22, 1.06), (39.03, 0.55)),
        ("s_model", ""): ((58.60, 2.33), (37.02, 0.34)),
        ("s_model_conf", ""): ((68.93, 1.09), (46.72, 1.87)),
        ("s_model_conf", "+ES"): ((79.24, 0.56), (54.50, 2.51)),
        ("clean_only", ""): ((15.90, 3.32), (8.06, 0.76)),
        ("baseline", "+FT"): ((82.82, 0.93), (54.23, 1.75)),
        ("baseline", "+ES+FT"): ((85.19, 0.46), (55.22, 1.40)),
        ("weighted", "+FT"): ((85.98, 0.47), (53.99, 1.62)),
        ("s_model_conf", "+FT"): ((81.90, 0.85), (53.11, 1.33)),
        ("s_model_conf", "+ES+FT"): ((85.86, 0.63), (55.75, 1.26)),
        ("reweight", ""): ((86.73, 0.48), (59.30, 0.60)),
    },
}

# Item of scripts/paper.py -> what the paper says of it, in words; its figures print no numbers.
CLAIMS = {
    "fig2": "at 200:1 its own method has an error only about 2 points above that of balanced "
    "classes; the other methods have many more (10 seeds, MNIST)",
    "fig3": "most images with wrong labels have weight zero, also within one class",
    "fig4": "15 clean images cost about 2 points; nothing is gained beyond 100; fine-tuned "
    "baselines catch up at about 1,000 (CIFAR-10, 40% of the labels moved to class 3)",
    "fig5": "its own method loses 6 points from 0% to 50% of wrong labels, the baseline more than "
    "40; at 0% its own is slightly below the baseline's 92.5% (CIFAR-10, ResNet-32)",
    "fig6": "much of what the baseline confuses is cleared",
    "fig7": "baseline and S-Model lose hyper-validation accuracy after the first fall of the "
    "learning rate, its own method does not",
    "table1": "CIFAR-10: 86.92 against 67.97 (baseline), 86.06 (random) and 78.66 (baseline +FT)",
    "table2": "CIFAR-10: 86.73 against 59.54 (baseline), 69.51 (random), 79.17 (weighted) and "
    "85.86 (s_model_conf +ES+FT)",
    "no_noise": "at 0% of wrong labels its own method is slightly below the baseline",
}
