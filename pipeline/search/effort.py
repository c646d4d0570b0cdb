"""What a search costs, in one unit for every method: images that pass forward through one architecture.

A training image counts three times (forward, and twice that for the gradients).
"""

from __future__ import annotations

from pipeline.search.config import SearchConfig
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace

TRAINING = 3


def training_passes(config: SearchConfig, steps: int) -> int:
    """Passes of `steps` weight steps."""
    return TRAINING * config.batch_size * steps


def edgenas_passes(config: SearchConfig, validation_images: int) -> int:
    """Passes of a whole EdgeNAS search whose validation split has `validation_images`."""
    weight_steps = (config.warmup_steps + config.steps) * config.sharing.paths
    weight_steps += config.semifinalists * config.semifinal_steps + config.finalists * config.proxy_steps
    paths = config.paths if config.gradient == "score" else TRAINING
    looks = config.steps * paths * config.validation_batch_size
    # Children of later rounds come from a pool, too, and shared weights look at whoever trains.
    judged = max(config.candidates, config.semifinalists)
    looks += config.selection.pool * judged * config.selection.passes(config.batch_size)
    looks += judged * min(config.ranking_images, validation_images)
    looks += (config.semifinalists + config.finalists) * validation_images
    return training_passes(config, weight_steps) + looks


def search_passes(config: SearchConfig, space: SearchSpace | CellSpace, validation_images: int) -> int:
    """Passes of the search that sets what others in `space` may cost: EdgeNAS', of cells the hypernetwork's."""
    if isinstance(space, CellSpace):
        return cell_passes(config, len(space.ops), validation_images)
    return edgenas_passes(config, validation_images)


def affordable_trainings(config: SearchConfig, validation_images: int) -> int:
    """Architectures that can be trained from scratch for `proxy_steps` at EdgeNAS' cost; at least one."""
    return max(1, edgenas_passes(config, validation_images) // alone_passes(config, validation_images))


def alone_passes(config: SearchConfig, validation_images: int) -> int:
    """Passes of one architecture that is trained from scratch for `proxy_steps` and judged.

    Where proxies choose what is trained, with its share of the looks at what is not.
    """
    each = training_passes(config, config.proxy_steps) + validation_images
    if config.proxies.names:
        each += config.proxies.pool * config.proxies.passes(config.batch_size)
    return each


def cell_passes(config: SearchConfig, ops: int, validation_images: int) -> int:
    """Passes of a whole hypernetwork search in a cell space with `ops` operators an edge.

    A weight step runs every operator of every edge, which is as many paths as there are operators.
    """
    looks = config.candidates * min(config.ranking_images, validation_images)
    contests = min(config.semifinalists, config.candidates)
    trained = training_passes(config, ops * (config.warmup_steps + config.steps))
    return trained + looks + contests * cell_alone_passes(config, validation_images)


def affordable_cell_trainings(config: SearchConfig, ops: int, validation_images: int) -> int:
    """Architectures that a baseline trains from scratch at that cost; at least one."""
    return max(1, cell_passes(config, ops, validation_images) // cell_alone_passes(config, validation_images))


def cell_alone_passes(config: SearchConfig, validation_images: int) -> int:
    """Passes of one cell network that is trained for `proxy_steps` and judged."""
    return training_passes(config, config.proxy_steps) + validation_images


def cell_member_steps(config: SearchConfig, ops: int, validation_images: int) -> int:
    """Steps of each member of HW-DARTS in a cell space: what that cost leaves, but not fewer than a baseline's.

    A step of an alpha compares paths, or runs every operator of every edge and is differentiated.
    """
    lambdas = len(config.hwdarts.lambdas)
    each = config.paths if config.gradient == "score" else TRAINING * ops
    alphas = lambdas * config.hwdarts.steps_each(config.steps) * each * config.validation_batch_size
    looks = config.candidates * min(config.ranking_images, validation_images) + lambdas * validation_images
    spent = training_passes(config, config.warmup_steps + config.steps) + alphas + looks
    left = cell_passes(config, ops, validation_images) - spent
    return max(config.proxy_steps, left // (lambdas * training_passes(config, 1)))
