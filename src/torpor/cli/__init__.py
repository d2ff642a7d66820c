"""The command line, in reading order.

main.py        the table of commands, and how an expected error is told
project.py     what `torpor dev` keeps in a project's data directory, so that other commands find its server and key
connection.py  which server, which key, and requests to it
dev.py         everything in one terminal: services.py keeps its processes alive, narrator.py tells the runs' stories
server.py  worker.py  db.py          one service alone
trigger.py  runs.py  approve.py  tokens.py    work with runs; follow.py tells one run live
story.py                             a run's story as lines, in the words of ../words.py
doctor.py  init.py                   this machine, a new project
"""
