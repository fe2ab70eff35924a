"""Train an adapter from one recipe file: `zerogate train recipe.yaml`, or `train(load_recipe("recipe.yaml"))`."""
