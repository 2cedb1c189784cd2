"""Make WebDataset shards from a folder of captioned pictures, or from other shards.

    python -m fluxflow.data.prepare pictures/ shards/ --size 256

writes shards/train/00000.tar ... and shards/val/00000.tar ..., for `data=shards data.train=shards/train
data.val=shards/val`. The same input and options give the same bytes, with any number of processes, and a run that was
killed goes on when the same command is given again:

    scan.py          looks at every sample                  in processes, 2000 samples at a time
    plan.py          decides which sample goes into which shard
    shard_writer.py  writes a shard                         in processes, a shard at a time
    report.py        adds up what was written and what was not

work.py keeps the result of each piece of work in OUT/.prepare until the report is written.
"""
