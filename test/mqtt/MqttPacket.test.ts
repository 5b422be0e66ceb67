import { DeadLetters, Outgoing, Retries } from "@millrace/core"
import { toPacket } from "@millrace/mqtt/MqttPacket"
import { assert, describe, it } from "vitest"

const of = (headers: Readonly<Record<string, string>>, fields?: ReadonlyArray<readonly [string, Uint8Array]>) =>
  toPacket(
    new Outgoing("orders", new Uint8Array(1), "k", Object.assign(Object.create(null), headers), fields && { fields }),
    1,
    false
  )

const encoder = new TextEncoder()

describe("packets", () => {
  it("F22 what orders expiry and retaining is information in a dead letter or a delayed retry, whatever its form", () => {
    for (const name of [DeadLetters.names.channel, Retries.names.channel]) {
      for (const [expiry, retain] of [["5", "true"], ["soon", "maybe"]] as const) {
        const orders = { "mqtt-expiry": expiry, "mqtt-retain": retain }
        const fields = Object.entries(orders).map(([name, value]) => [name, encoder.encode(value)] as const)
        for (const packet of [of({ [name]: "orders", ...orders }), of({ [name]: "orders" }, fields)]) {
          if ("_tag" in packet) throw packet
          assert.strictEqual(packet.options.retain, false)
          assert.isUndefined(packet.options.properties?.messageExpiryInterval)
          const user = JSON.stringify(packet.options.properties?.userProperties)
          assert.include(user, `"mqtt-expiry":"${expiry}"`)
          assert.include(user, `"mqtt-retain":"${retain}"`)
        }
      }
    }
  })

  it("T1 in any other message they are orders, and one that is none is refused", () => {
    const packet = of({ "mqtt-expiry": "5", "mqtt-retain": "true" })
    if ("_tag" in packet) throw packet
    assert.deepStrictEqual([packet.options.retain, packet.options.properties?.messageExpiryInterval], [true, 5])
    for (const wrong of [{ "mqtt-expiry": "soon" }, { "mqtt-retain": "maybe" }]) {
      const refused = of(wrong)
      assert.deepStrictEqual("_tag" in refused && [refused.reason, refused.retriable], ["Invalid", false])
    }
  })
})
