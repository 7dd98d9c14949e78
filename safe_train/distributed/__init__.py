"""Several processes that share each batch: launch, collectives, sharding."""
