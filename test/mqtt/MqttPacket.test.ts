import { Outgoing } from "@millrace/core"
import { toPacket } from "../../packages/mqtt/src/internal/Packet.ts"
import { assert, describe, it } from "vitest"

const of = (
  headers: Readonly<Record<string, string>>,
  options: { readonly isCopy?: boolean; readonly retain?: boolean } = {}
) =>
  toPacket(
    new Outgoing("orders", new Uint8Array(1), "k", Object.assign(Object.create(null), headers), {
      isCopy: options.isCopy
    }),
    1,
    options.retain ?? false
  )

describe("packets", () => {
  it("F22 the retain flag that the options give messages is not given to copies of consumed ones", () => {
    const retains = [false, true].map((isCopy) => {
      const packet = of({}, { isCopy, retain: true })
      if ("_tag" in packet) throw packet
      return packet.options.retain
    })
    assert.deepStrictEqual(retains, [true, false])
  })

  it("T1 headers are instructions to the server, and one that is none is refused", () => {
    const packet = of({ "mqtt-expiry": "5", "mqtt-retain": "true", "mqtt-qos": "2" })
    if ("_tag" in packet) throw packet
    assert.deepStrictEqual(
      [packet.options.qos, packet.options.retain, packet.options.properties?.messageExpiryInterval],
      [2, true, 5]
    )
    assert.isUndefined(packet.options.properties?.userProperties?.["mqtt-qos"])
    for (const wrong of [{ "mqtt-expiry": "soon" }, { "mqtt-retain": "maybe" }, { "mqtt-qos": "3" }]) {
      const refused = of(wrong)
      assert.deepStrictEqual("_tag" in refused && [refused.reason, refused.retriable], ["Invalid", false])
    }
  })
})
