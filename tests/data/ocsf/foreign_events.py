#!/usr/bin/env python3
"""Prints a JSON array of random events of every class of a compiled OCSF schema, most of them wrong somewhere.

  foreign_events.py SCHEMA SEED COUNT
"""
import json, random, sys

schema = json.load(open(sys.argv[1]))
rand = random.Random(int(sys.argv[2]))
types = schema["dictionary"]["types"]["attributes"]
TEXTS = ["", "x", "Unknown", "Other", "10.0.0.1", "::1", "fe80::1%eth0", "1.2.3.4.5", "::ffff:1.2.3.4", "1:2:3:4:5:6:7::", " 10.0.0.1 ",
         "10x0x0x1", "10.0.0.1\n", "01:02:03:04:05:06", "a@b.c", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00",
         "2024-\u0661\u0661-01T00:00:00Z", "AA==", "A", "123e4567-e89b-12d3-a456-426614174000",
         "x123e4567-e89b-12d3-a456-426614174000y", "x" * 50, "\u00e9" * 41]
STRAYS = [None, True, 1, 1.5, "x", [], {}, -1, 2**63, 2**64 - 1, 99, [1], 1.0]
SCALARS = {
    "boolean_t": [True, False], "float_t": [1.5, 1.0, 2], "integer_t": [0, 1, 99, 65535, 65536, 2**63 - 1, 2**63, -1],
    "long_t": [0, 1, 2**63, -5, 253402300799999, 253402300800000, 1700000000000], "string_t": TEXTS,
    "json_t": [None, 1, "x", {"a": [None]}],
}
NAMES = ["actor.user.uid", "src_endpoint.ip", "device", "device.hostname", "resources[0].uid", "resources.uid", "resources[].name",
         "resources[9].uid", "file.path", "process.pid", "foo", "actor.foo", "time", "severity", "x..y", "", "a[b", "a[.]b",
         "observables.value", "metadata.uid", "metadata.profiles", "src_endpoint[0].ip", "unmapped.x", "file.hashes.value", "user.name"]


def value(attribute, depth):
    kind = attribute["type"]
    if rand.random() < 0.04:
        return rand.choice(STRAYS)
    if kind == "object_t":
        return item(schema["objects"][attribute["object_type"]], depth + 1)
    if attribute.get("enum"):
        key = rand.choice(list(attribute["enum"]) + ["77"])
        return key if kind == "string_t" else int(key)
    return rand.choice(SCALARS[types[kind].get("type", kind)])


def likelihood(attribute, depth, count):
    if depth > 5 and attribute["type"] == "object_t":
        return 0
    if attribute.get("requirement") == "required":
        return 0.3 if attribute.get("profiles") else 0.95
    return min(0.3, 4 / count) if depth < 3 else 0.5 / count


def item(of, depth):
    made, attributes = {}, of["attributes"]
    for name, attribute in attributes.items():
        if rand.random() >= likelihood(attribute, depth, len(attributes)):
            continue
        if attribute.get("is_array") and rand.random() < 0.97:
            made[name] = [value(attribute, depth) for _ in range(rand.choice([0, 1, 1, 2]))]
        else:
            made[name] = value(attribute, depth)
        sibling = attribute.get("sibling")
        if sibling and rand.random() < 0.6:
            known = {key: one["caption"] for key, one in attribute.get("enum", {}).items()}
            ids = made[name]
            caption = [known.get(str(one)) for one in ids] if isinstance(ids, list) else known.get(str(ids))
            made[sibling] = rand.choice([caption, caption, caption, caption, "x", ["x"]])
    if rand.random() < 0.03:
        made["foo"] = 1
    return made


def event():
    of = rand.choice(list(schema["classes"].values()))
    made = item(of, 0)
    if rand.random() < 0.97:
        made["class_uid"] = of["uid"]
    if rand.random() < 0.8:
        activity = int(rand.choice(list(of["attributes"]["activity_id"]["enum"])))
        made.update(activity_id=activity, type_uid=of["uid"] * 100 + activity)
    if rand.random() < 0.8:
        made["category_uid"] = of["uid"] // 1000
    for name in ("class_name", "category_name", "type_name", "activity_name"):
        if rand.random() < 0.7:
            made.pop(name, None)
    if rand.random() < 0.5:
        made["class_name"] = of["caption"]
    if isinstance(made.get("metadata"), dict):
        if rand.random() < 0.8:
            made["metadata"]["version"] = schema["version"]
        if rand.random() < 0.8:
            made["metadata"]["profiles"] = rand.sample(of["profiles"], rand.randint(0, 4))
        else:
            made["metadata"]["profiles"] = rand.choice([["nope"], ["host", "host"], ["host", 1], [], "host", list(schema["profiles"])])
    if rand.random() < 0.5:
        made["observables"] = [
            {"name": rand.choice(NAMES), "type_id": rand.choice([0, 1, 2, 5, 10, 15, 20, 21, 24, 31, 45, 99]),
             "value": rand.choice(["x", "1", "10.0.0.1", "true"])}
            for _ in range(rand.randint(1, 3))
        ]
    return made


json.dump([event() for _ in range(int(sys.argv[3]))], sys.stdout)
