import { it } from "@effect/vitest"
import { Mqtt } from "@millrace/mqtt"
import { Effect } from "effect"
import { inspect } from "node:util"
import { expect } from "vitest"
import { outgoing } from "./support.ts"

const secret = "p4ss:w/rd"
const good: Mqtt.Options = { url: `mqtt://app:${encodeURIComponent(secret)}@localhost`, clientId: "one" }

/** Options that cannot be right, and the words that say so. */
const bad: ReadonlyArray<readonly [options: Partial<{ readonly [K in keyof Mqtt.Options]: unknown }>, words: string]> =
  [
    [{ url: "localhost:1883" }, "url must be mqtt://host:port"],
    [{ url: `http://app:${encodeURIComponent(secret)}@localhost` }, "url must be mqtt://host:port"],
    [{ url: `mqtt://app:${encodeURIComponent(secret)}@` }, "url must be mqtt://host:port"],
    [{ url: `mqtt://app:${encodeURIComponent(secret)}@localhost/path` }, "url must have no path with mqtt, got /path"],
    [{ url: `mqtt://app:${encodeURIComponent(secret)}@localhost?keepalive=5` }, "url must have no query with mqtt"],
    [{ url: `mqtt://app:${encodeURIComponent(secret)}@localhost#1` }, "url must have no #"],
    [{ url: "mqtt://localhost:0" }, "the port in url must be from 1 to 65535, got 0"],
    [{ url: undefined }, "url must be mqtt://host:port"],
    [{ username: "" }, "username must be at least one character"],
    [{ username: "a\nb" }, "username must be at least one character, and no control character"],
    [{ consumer: null }, "an option is not of its type"],
    [{ will: {} }, "an option is not of its type"],
    [{ url: "mqtt://app:%ff@localhost" }, "the password in url is not percent-encoded UTF-8"],
    [{ url: "mqtt://localhost", password: secret }, "a password needs a username"],
    [{ clientId: "" }, "clientId must be 1 to 256 characters"],
    [{ clientId: "a\nb" }, "clientId must be 1 to 256 characters"],
    [{ clientId: undefined }, "clientId must be 1 to 256 characters"],
    [{ qos: 3 }, "qos must be 0, 1 or 2, got 3"],
    [{ keepalive: "100 millis" }, "keepalive must be a duration of whole seconds from 1 to 65535"],
    [{ keepalive: "1 day" }, "keepalive must be a duration of whole seconds"],
    [{ connectTimeout: 0 }, "connectTimeout must be a duration from 1 ms"],
    [{ tls: { ca: "x" } }, "tls needs mqtts or wss in url, got mqtt"],
    [{ url: "mqtts://localhost", tls: { cert: "x" } }, "tls needs both cert and key, or neither"],
    [{ consumer: { sharing: "alone" } }, `consumer.sharing must be "group" or "exclusive", got alone`],
    [{ consumer: { sessionExpiry: "1.5 seconds" } }, "consumer.sessionExpiry must be a duration of whole seconds"],
    [{ consumer: { receiveMaximum: 0 } }, "consumer.receiveMaximum must be an integer from 1 to 65535, got 0"],
    [{ consumer: { receiveMaximum: 65_536 } }, "consumer.receiveMaximum must be an integer from 1 to 65535, got 65536"],
    [{ producer: { window: 1.5 } }, "producer.window must be an integer from 1 to 65535, got 1.5"],
    [{ producer: { retain: true } }, `producer.retain must be "off" or "on", got true`],
    [{ producer: { unheard: "drop" } }, `producer.unheard must be "confirm" or "refuse", got drop`],
    [{ qos: 0, producer: { unheard: "refuse" } }, `producer.unheard "refuse" needs qos 1 or 2`],
    [{ will: outgoing("a/+", "m") }, `will: The channel "a/+" holds + or #`],
    [{ will: outgoing("a", "m", { key: "a\tb" }) }, "will: A message for a has control characters in its key"]
  ]

it.effect("T9 what cannot be right is refused by its name before anything is connected, and no secret is repeated", () =>
  Effect.gen(function*() {
    for (const [options, words] of bad) {
      // wrong on purpose, as a program without types may be
      const error = yield* Effect.flip(Effect.scoped(Mqtt.driver({ ...good, ...options } as Mqtt.Options)))
      expect(error).toMatchObject({ system: "mqtt", operation: "connect", reason: "Invalid", failure: "permanent" })
      expect(error.message).toContain(`Mqtt: ${words}`)
      const text = inspect(error, { depth: 9, showHidden: true }) + JSON.stringify(error)
      expect(text).not.toContain(secret)
      expect(text).not.toContain(encodeURIComponent(secret))
    }
  }))
