"""An MQTT client over WebSocket out of paho-mqtt, old or new, that does what it is told on stdin and tells on stdout what it sees.

    python mqtt_client.py ws|wss PORT NAME      with WSLUICE_CERT

Told: `publish SIZE`. Tells JSON, one a line: `{"paho": VERSION}`, `{"event": "connect"}`, `{"event": "disconnect"}`, `{"event": "message", "size": SIZE}`.
It subscribes to its own topic, at QoS 1, each time that it connects, and it reconnects by its own means (`loop_start`).
"""

import json
import os
import sys

import paho.mqtt
import paho.mqtt.client as mqtt

scheme, port, name = sys.argv[1:]
topic = f"wsluice/{name}"


def tell(**what):
    print(json.dumps(what), flush=True)


def on_connect(client, *_):
    client.subscribe(topic, qos=1)


arguments = {"client_id": name, "transport": "websockets"}
if hasattr(mqtt, "CallbackAPIVersion"):
    arguments["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION2
client = mqtt.Client(**arguments)
client.on_connect = on_connect
client.on_subscribe = lambda *_: tell(event="connect")
client.on_disconnect = lambda *_: tell(event="disconnect")
client.on_message = lambda _client, _data, message: tell(event="message", size=len(message.payload))
if hasattr(client, "reconnect_delay_set"):
    client.reconnect_delay_set(min_delay=1, max_delay=1)
if scheme == "wss":
    client.tls_set(ca_certs=os.environ["WSLUICE_CERT"])
tell(paho=paho.mqtt.__version__)
client.connect("localhost", int(port), keepalive=10)
client.loop_start()  # so that one thread alone writes: its WebSocket has no lock
for line in sys.stdin:
    client.publish(topic, b"x" * int(line.split()[1]), qos=1)
client.disconnect()
