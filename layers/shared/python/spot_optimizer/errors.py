"""Every deliberate failure of the product.

The class name of a leaf *is* its name in the state machines (`ErrorEquals`) and the last segment of its problem type
over HTTP. `Transient` says "the same call may succeed later" and is retried; `Rejected` says "not like this" and is
caught. Raise leaves only. Messages say what was wrong, what was expected and what to do.
"""

from __future__ import annotations


class SpotOptimizerError(Exception):
    """Root of all failures that this product raises on purpose."""


class Transient(SpotOptimizerError):
    """The same call may succeed later."""


class Rejected(SpotOptimizerError):
    """The call can not succeed as it is."""


# --- transient ---


class Throttled(Transient):
    """An AWS service asked to slow down; nothing was changed."""


class OutcomeUnknown(Transient):
    """A write was sent and no answer came: it may or may not have taken effect. Read back, then decide."""


class NotServingYet(Transient):
    """The promoted instance has not reported a passed health check under its epoch yet."""


class AddressNotMovable(Transient):
    """The traffic path could not be moved right now, for example because the instance is still pending."""


class ControlPlaneUnavailable(Transient):
    """A service that the control plane needs did not answer."""


# --- rejected: what was asked for does not exist ---


class AgentUnknown(Rejected):
    """No agent has this id, or it belongs to another client."""


class ReplicaUnknown(Rejected):
    """No replica of this agent has this id."""


class InstanceUnknown(Rejected):
    """No instance with this id carries, or carried, an agent of ours."""


class ClientUnknown(Rejected):
    """No client has this id."""


class HandoverUnknown(Rejected):
    """The agent's current handover has another id."""


class CommandUnknown(Rejected):
    """No command with this id is pending for the agent."""


class SnapshotUnknown(Rejected):
    """The agent has no snapshot of that time, or none with this id is being uploaded."""


class PoolUnknown(Rejected):
    """No pool of interest has this id."""


class TokenUnknown(Rejected):
    """No token with this id exists."""


class ModelSessionUnknown(Rejected):
    """No model session has this id; older ones are deleted with their files."""


# --- rejected: who asks ---


class TokenInvalid(Rejected):
    """The bearer token is missing, malformed, unknown, expired or revoked."""


class Forbidden(Rejected):
    """The token is valid, and does not allow this call."""


class InstanceUnproven(Rejected):
    """The instance identity document does not prove what the caller claims."""


class JoinTokenSpent(Rejected):
    """The join token was redeemed before, with another registration key."""


# --- rejected: fencing and state ---


class ConditionFailed(Rejected):
    """A conditional write found the row other than expected; nothing was changed."""


class StaleEpoch(Rejected):
    """The caller acts under an epoch that is over; it must stop its workload.

    Attributes:
        current_epoch: The agent's epoch now.
    """

    def __init__(self, message: str, *, current_epoch: int) -> None:
        super().__init__(message)
        self.current_epoch = current_epoch


class SnapshotOutOfOrder(Rejected):
    """The snapshot does not follow the agent's newest one; begin with a base."""


class SnapshotIncomplete(Rejected):
    """Parts of the snapshot are missing, or are not what they were said to be."""


class SnapshotFound(Rejected):
    """A snapshot was completed since the last look: the agent is not lost."""


class HandoverNotOpen(Rejected):
    """The handover was aborted or committed before."""


class HandoverNeeded(Rejected):
    """The handover saves the agent from an interruption: to abort it would keep no primary."""


class HandoverInProgress(Rejected):
    """The call would disturb a handover that is under way."""


class ReplicaNotReady(Rejected):
    """The replica can not take over: it is not `ready`, or its readiness is not the one the caller acted on."""


class ReplicaNeeded(Rejected):
    """The replica may be the newest copy of the agent's state: its primary does not run, or is not heard."""


class DemotionRefused(Rejected):
    """The old primary would be no good standby: it shares its successor's pool, or AWS is taking that pool back."""


class ReplicaAlreadyActive(Rejected):
    """The agent already has a replica that is being prepared or is ready."""


class ReplicaFailed(Rejected):
    """The replica reached the end of its life without taking over."""


class ReplicaPromoted(Rejected):
    """The replica has taken over: it is the primary, or was, and is no replica any more."""


class PromotionUnproven(Rejected):
    """The claim on which a promotion is asked for does not hold."""


class SwitchInProgress(Rejected):
    """The agent is being switched already; one switch at a time."""


class SwitchHeld(Rejected):
    """The rules that keep a workload from being moved too often, or for too little, forbid the recommended switch."""


class ToggledOff(Rejected):
    """The agent's configuration forbids this call."""


class Paused(Rejected):
    """An operator wants nothing changed, of this agent or of all."""


class ClaimLost(Rejected):
    """Another execution has taken over the work on this agent."""


class AgentLost(Rejected):
    """Every copy of the agent's state is gone; nothing may be started in its name."""


class NoticeTooOld(Rejected):
    """The termination time is further in the past than any notice can be."""


class PrimaryAlreadyRegistered(Rejected):
    """The agent already has a primary; another instance can only join as a replica."""


class InvalidRequest(Rejected):
    """A field is missing, malformed, out of bounds or unknown.

    Attributes:
        field: Path of the offending field.
        expected: What would have been accepted.
    """

    def __init__(self, message: str, *, field: str, expected: str) -> None:
        super().__init__(message)
        self.field = field
        self.expected = expected


# --- rejected: launching ---


class PoolUnavailable(Rejected):
    """AWS has no capacity or we have no quota for this pool now; the next pool may have."""


class NoPoolQualifies(Rejected):
    """No pool is left to try."""


class LaunchRefused(Rejected):
    """AWS refused the launch for a reason that no other pool will change, such as a missing permission."""


class NoStandbyObtainable(Rejected):
    """As many replacements as one failover may launch have failed."""


class HandoverFailed(Rejected):
    """The handover did not lead to a serving primary."""


class ResourceNotAllowed(Rejected):
    """A launch template, address, target or subnet is not tagged as allowed for this client."""


# --- rejected: models ---


class ModelRejected(Rejected):
    """The uploaded model can not be used; its session ends, and the live model stays."""


class ModelClearlyWorse(Rejected):
    """On recent data the model does clearly worse than the live one; only `force`, with a reason, activates it."""


class ModelUnhealthy(Rejected):
    """The model that was made live is not served as it was validated."""


class ModelNotActivatable(Rejected):
    """The session is not waiting to be activated."""


class UploadIncomplete(Rejected):
    """Files of the session have not been uploaded yet."""


class ActivationInProgress(Rejected):
    """Another activation is under way; one at a time may change what is live."""


class ActivationLost(Rejected):
    """The activation was given up, or taken over, while it ran."""


class NoFallbackModel(Rejected):
    """There is no model to fall back to."""


class NoModelLive(Rejected):
    """No model is live, or none that can be loaded; the advisor band stands in."""
