"""Flax ports of policies and process reward models, Hugging Face checkpoints in and out."""

from pfjax.models.attention import Segment as Segment
from pfjax.models.attention import attend as attend
from pfjax.models.checkpoint import export as export
from pfjax.models.checkpoint import load_policy as load_policy
from pfjax.models.checkpoint import load_prm as load_prm
from pfjax.models.config import CheckpointError as CheckpointError
from pfjax.models.config import DecoderConfig as DecoderConfig
from pfjax.models.decoder import Decoder as Decoder
from pfjax.models.decoder import forward as forward
from pfjax.models.policy import PRM as PRM
from pfjax.models.policy import Policy as Policy
from pfjax.models.prm import ProcessRewardModel as ProcessRewardModel
from pfjax.models.sharding import problem_mesh as problem_mesh
from pfjax.models.tokenizer import Tokenizer as Tokenizer
