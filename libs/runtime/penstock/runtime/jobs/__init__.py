"""Long work: durable jobs, each in a child process with its own memory and its own crash.

A job is a row (`queue`). A worker claims it under a lease, starts the child, and applies what the
child says: each message in one transaction with the events that follow from it (`worker`). A job
whose result was applied never runs again; one whose child crashed, or whose service died, does, as
often as `policy` allows.

The child's side is `penstock.runtime.child`, which imports nothing of this. Jobs that have child
processes of their own import `policy`, `fork_server` and `forked_process`, and no database with them.
"""
