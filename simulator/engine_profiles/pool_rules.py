"""How an engine serves prefill and decode on devices of their own: what its two pools agree on for each request."""

from simulator.engine_profiles.profile_section import ProfileSection, Seconds, Source, Steps


class PoolRules(ProfileSection):
    """Rules of an engine version; ``source`` says where it has them."""

    offers_first: bool  # the decode pool takes the blocks of a prompt before it is computed; else once it is
    passes_first_token: bool  # it comes along with the KV; else the decode pool computes the last prompt token again
    draws_prefill_ranks: bool = False  # a prompt goes to any attention-data rank of its worker, not to one in turn
    reserved_tokens: Steps = 0  # kept free for each request of the decode pool where another one asks for blocks
    hand_over_s: Seconds = 0.0  # of the router, from the pool that has a request first to the other one
    tokenises_twice: bool = False  # a computed prompt passes the decode server's own front end
    prefill_is_synchronous: bool = False  # the prefill pool schedules no step ahead, whatever the server's default
    source: Source
