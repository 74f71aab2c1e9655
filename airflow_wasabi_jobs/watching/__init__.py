"""
Finding the jobs that finish: what the event trigger polls, and what it remembers between two polls.

The lists of an account show which jobs are new and which are unfinished. A job that a watcher knows and that is no
longer in the lists of unfinished jobs has probably finished. **A list never makes an event, only the job's own status
does.**
"""
