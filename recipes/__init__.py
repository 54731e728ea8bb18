"""Deciding what to train with, the recipe file that says it, and training from it.

At the top: the recipe's schema, and what an exported script imports. Each folder imports only from those above it, and
the top from none:

    recipe       the recipe file
    scripts      a recipe as a training script
    data         batches from the user's files
    plan         does a step fit the memory, and what would make it
    evidence     what is known of a method's quality: published, measured, raced
    ranking      the methods as rows of a table, best first        (plan, evidence)
    advice       the advisor: an answer with reasons, and a recipe (ranking)
    run_folder   what a run keeps on disk                        (recipe, data)
    training     the training itself                               (run_folder, data, plan)
    tracking     its scalars for other tools                       (training)
    race         methods trained against each other                (advice, training)
"""

if __name__ != "subopt.recipes":
    raise ImportError(
        "this folder is the package 'subopt.recipes': install subopt with 'make install' and import that"
    )
