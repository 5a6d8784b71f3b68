"""A generation drawn while it goes on, in a terminal, a notebook or as plain lines.

It stands at the top of the house, as the command line does, since it looks at what is being captured and draws it as
the views do. Nothing is imported here, so that the command line can name what it takes without loading torch.
"""
