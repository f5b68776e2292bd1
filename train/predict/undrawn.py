"""Pictures that would surprise: they have persons, and no joint of them is high enough to be drawn."""

from train.predict.people import People


class Undrawn:
    """Counts them.

    Args:
        least: The height from which joints are drawn.
    """

    def __init__(self, least: float) -> None:
        self.least = least
        self.pictures, self.bare, self._highest = 0, 0, float("-inf")

    def look(self, people: People) -> None:
        """Count a picture that was drawn."""
        self.pictures += 1
        if people.joint_scores.size and people.joint_scores.max() < self.least:
            self.bare += 1
            self._highest = max(self._highest, float(people.joint_scores.max()))

    def line(self, unit: str) -> str | None:
        """What to tell about them and what to give, in one line; None if there are none."""
        if not self.bare:
            return None
        found = f"{self.bare} of {self.pictures} {unit} show no joint: the highest there is {self._highest:.2g}"
        return f"{found}, below --draw-above {self.least:g}; give --draw-above {self._highest / 2:.1g} to see more"
