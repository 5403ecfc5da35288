"""What a training costs, before anything is made: parameters, FLOPs, bytes; on a mesh of chips its memory, communication
and time.

All is counted on the traced, or compiled, programs that training runs, with arrays that are not there; so the cost of a
network for a large machine is known on a small one.
"""
from unitok.plan.counting import bytes_of, flops, kept, parameters
from unitok.plan.on_mesh import mesh_plan
from unitok.plan.stages import active, decoder_plan, tokenizer_plan

__all__ = ["active", "bytes_of", "decoder_plan", "flops", "kept", "mesh_plan", "parameters", "tokenizer_plan"]
