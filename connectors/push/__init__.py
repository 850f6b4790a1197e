"""Sources that are told their documents: whoever has them pushes each change, and is answered once the log has it.

There is nothing to scan or to fetch. :class:`connectors.push.runner.PushRunner` takes the place of
:class:`connectors.runner.Runner`: it is the one writer of the source's keys, under the same transactional id, and
keeps its state in the same place. What listens for senders is a :class:`connectors.push.source.PushSource`. See
docs/adr/0009-pushed-documents.md.
"""
