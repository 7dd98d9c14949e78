"""The registries of retention variants, models and GPUs; part of the package as ``safe_train.configs``."""

import sys

if __name__ == "configs":  # the top of a checkout: by either name it is one registry, not two copies of it
    from safe_train.configs import gpus, lookup, model_configs, retention_variants

    for _module in (gpus, lookup, model_configs, retention_variants):
        sys.modules[_module.__name__.replace("safe_train.configs", __name__)] = _module
