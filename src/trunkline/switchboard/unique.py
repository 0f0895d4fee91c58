"""Unique names: who may hold one, and who has lost it (docs/spec/switchboard.md section 7).

A secure name is unique among the posts of its user: nobody else can keep a user from a name of their own.
"""

from trunkline.errors import Displaced, NameTaken
from trunkline.names import digest
from trunkline.switchboard.entries import PostEntry
from trunkline.switchboard.generations import Generations
from trunkline.switchboard.table import Table
from trunkline.wire.messages import Post


class UniqueNames:
    """The rules; what follows from them is done by the matcher.

    Args:
        me: this server's id.
        table: where the posts lie.
        generations: what the next holder gets.
    """

    __slots__ = ("_generations", "_me", "_table")

    def __init__(self, me: str, table: Table, generations: Generations) -> None:
        self._me = me
        self._table = table
        self._generations = generations

    def claim(self, message: Post, now: float) -> tuple[int, list[PostEntry]]:
        """Return the generation under which a post may stand, 0 if it isn't unique; and our own posts that give way.

        Raises:
            NameTaken: somebody holds the name, and this is not their secret.
            Displaced: it was held by this client once, and is somebody else's since.
        """
        key = (message.name, message.datagram, message.user)
        rivals = self._table.every_post(key)
        holder = max(rivals, key=lambda post: (post.unique, post.generation, post.owner), default=None)
        if holder is None or (not message.unique and not holder.unique):
            return self._generations.next(key, now, held=message.generation) if message.unique else 0, []
        # Who held it once and was succeeded doesn't come back by the secret: it was frozen, say, and didn't hear of it.
        succeeded = 0 < message.generation < holder.generation and message.rid != holder.rid
        secret = claim_of(message)
        if message.unique and holder.unique and secret and secret == holder.claim and not succeeded:
            generation = self._generations.next(key, now, held=message.generation, taken_over=holder.generation)
            return generation, [post for post in rivals if not post.owner]
        # A generation alone proves nothing, so it displaces nobody: only the secret does.
        if message.generation:
            raise Displaced(message.name, holder.generation)
        kind = "by a unique post" if holder.unique else f"by {len(rivals)} post(s) that are not unique"
        raise NameTaken(message.name, f"it is held {kind}; its secret would take it over")

    def losers(self, theirs: PostEntry) -> list[PostEntry]:
        """Return our own posts that lose their name to a mate's: the greatest (generation, server id) stays."""
        ours = [post for post in self._table.every_post(theirs.key) if not post.owner]
        if not ours or not (theirs.unique or any(post.unique for post in ours)):
            return []
        claim = (theirs.unique, theirs.generation, theirs.owner)
        return [post for post in ours if (post.unique, post.generation, self._me) < claim]

    def gone(self, post: PostEntry, now: float) -> None:
        """A post of ours ends: the next hold of its name gets a greater generation."""
        if post.unique:
            self._generations.remember(post.key, post.generation, now)


def claim_of(message: Post) -> bytes:
    """Return what is kept, and told to other servers, of a unique post's secret: its hash."""
    return digest(message.secret) if message.secret else b""
