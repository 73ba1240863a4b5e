"""`lookupd probe`: asks servers as a switch does, at a steady pace, and keeps how long each dip took.

`servers` reads whom to ask, `questions` has each dialect's messages, `asker` puts one question and times it, `numbers`
draws what is asked, `tally` counts, `sampler` is the running probe, `report` reads what was kept.
"""
