"""The text on which a language model's perplexity is measured: plain English, written for this purpose."""

from __future__ import annotations

__all__ = ["ENGLISH", "WHAT"]

WHAT = "a plain English text"
ENGLISH = """\
The harbour of a small town wakes up early. Before the sun has cleared the hills, the first boats come back from the \
night's fishing, and the people who buy their catch are waiting on the quay with boxes of ice. They talk about the \
weather, about the price of fuel, and about whose engine has failed this time. Nobody is in a hurry until the ropes \
are tied; then everybody is.

Most of the boats are older than the men and women who sail them. Wood lasts a long time if it is painted every \
spring, and there is always someone who knows how to replace a plank. The engines are another matter. They were made \
for lorries, and salt water is not kind to them. A good mechanic is never without work here, and a bad one is soon \
found out, because a boat that stops in a storm may not come home.

In the afternoon the quay belongs to the children. They throw lines into the water and pull up crabs, count them, and \
let them go again. An old woman sells tea and warm bread from a window. She remembers when there were three times as \
many boats, and when the ferry to the island ran twice a day. Now it runs on Mondays and Fridays, and if the wind is \
from the north it does not run at all.

Why do people stay? Some of them would say that they have no choice. Others left when they were young, worked in a \
city for ten or twenty years, and came back with a little money and a wish for quiet evenings. A teacher at the school \
likes to ask her pupils what they want to be. Last year nine of them wanted to be doctors, four wanted to drive \
trains, and one wanted to build a machine that could tell where the fish are. She told him that such machines exist, \
and that his uncle has one. He answered that it does not work very well.

When the light goes, the lamps along the wall come on one after another. The tide turns, the boats swing slowly on \
their moorings, and the last of the bread is given to the gulls. There is a rule that no engine may be started after \
ten o'clock, so that people can sleep. It is broken only when someone is late, and then half of the town is standing \
at the windows until a small green light appears behind the breakwater and moves, very slowly, towards home.
"""
