"""Run a function on several processes joined by torch's gloo back end, for tests that compare them with one process."""

import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _rank(rank, work, ranks, folder, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    work(rank, ranks, folder, *arguments)
    dist.barrier()  # nobody leaves while another still talks to it
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # now and then torch's own threads outlive the interpreter and abort the process at exit ("terminate called without
    # an active exception"); what is tested has been written by then
    os._exit(0)


def run_gloo_ranks(work, ranks, folder, *arguments):
    """Call `work(rank, ranks, folder, *arguments)` on every rank; an exception on one is raised here."""
    mp.spawn(_rank, args=(work, ranks, str(folder), arguments), nprocs=ranks)
