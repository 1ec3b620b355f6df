"""From the log of events to systems that people already run.

Each wire reads the log in a thread of its own, so that cameras never wait for it, and goes on after
a restart where it was.
"""

from edgeface.wires.broker import MqttOptions
from edgeface.wires.frigate import Frigate, FrigateOptions
from edgeface.wires.mqtt import Mqtt
from edgeface.wires.webhook import Webhook, WebhookOptions

__all__ = ["Frigate", "FrigateOptions", "Mqtt", "MqttOptions", "Webhook", "WebhookOptions"]
