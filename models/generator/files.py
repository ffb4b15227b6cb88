"""A generator as two files: its config in `generator.json`, its weights in a safetensors file.

A generation calls the weights `generator.safetensors`, a policy version `weights.safetensors`.
"""

import json
from pathlib import Path

import torch

from models.generator.config import GeneratorConfig
from models.generator.generator import Generator
from models.tensor_file import TensorFileInvalid, read_tensors, write_tensors

CONFIG_NAME = "generator.json"
GENERATION_WEIGHTS = "generator.safetensors"


def save_generator(folder: Path, generator: Generator, weights: str = GENERATION_WEIGHTS) -> None:
    """Writes config and weights into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu() for name, tensor in generator.state_dict().items()}
    write_tensors(folder / weights, {name: tensor.numpy() for name, tensor in tensors.items()})
    text = json.dumps(generator.config.to_json(), indent=2)
    (folder / CONFIG_NAME).write_text(text + "\n")


def load_generator(folder: Path, weights: str = GENERATION_WEIGHTS) -> Generator:
    """Returns the generator saved in `folder`, in eval mode.

    Raises `TensorFileInvalid` when a file is missing or broken, or holds another model's weights.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise TensorFileInvalid(path=path, found="no file", wanted="a generator's config")
    random_state = torch.get_rng_state()  # the fresh weights are overwritten: give their draws back
    generator = Generator(GeneratorConfig.from_json(json.loads(path.read_text())))
    torch.set_rng_state(random_state)
    arrays = read_tensors(folder / weights)
    wanted = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
    found = {name: array.shape for name, array in arrays.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise TensorFileInvalid(
                path=folder / weights,
                found=f"{name} of shape {found.get(name)}",
                wanted=f"{wanted.get(name)}, as generator.json says",
            )
    generator.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return generator.eval()
