// OpenAI's client for node: ask, stream, tools, structured output, Responses, training, a batch.
import assert from 'node:assert/strict'
import { createReadStream } from 'node:fs'
import OpenAI, { NotFoundError, toFile } from 'openai'

const client = new OpenAI()
const model = process.env.MODEL
const messages = [{ role: 'user', content: 'What is the code?' }]
const schema = {
  type: 'object',
  properties: { mood: { enum: ['good', 'bad'] } },
  required: ['mood'],
  additionalProperties: false,
}
const ended = (object) => ['succeeded', 'completed', 'failed', 'cancelled', 'expired'].includes(object.status)

async function until(retrieve) {
  for (;;) {
    const object = await retrieve()
    if (ended(object)) return object
    await new Promise((resolve) => setTimeout(resolve, 1000))
  }
}

async function ask() {
  const answer = await client.chat.completions.create({ model, messages, max_completion_tokens: 24 })
  assert(answer.choices[0].message.content)
  const stream = client.chat.completions.stream({ model, messages, max_tokens: 24, stream_options: { include_usage: true } })
  const whole = await stream.finalChatCompletion()
  assert(whole.choices[0].message.content && whole.usage.completion_tokens > 0)
  const name = 'find_order'
  const parameters = { type: 'object', properties: { customer: { enum: ['Ada', 'Bob'] } } }
  const tools = [{ type: 'function', function: { name, parameters } }]
  const call = await client.chat.completions.create({ model, messages, tools, tool_choice: 'required' })
  assert.equal(call.choices[0].message.tool_calls[0].function.name, name)
  const response_format = { type: 'json_schema', json_schema: { name: 'mood', schema, strict: true } }
  const shaped = await client.chat.completions.parse({ model, messages, response_format })
  assert('mood' in shaped.choices[0].message.parsed || JSON.parse(shaped.choices[0].message.content).mood)
}

async function respond() {
  const first = await client.responses.create({ model, input: 'Hello', max_output_tokens: 24 })
  assert(first.output_text)
  const stream = client.responses.stream({ model, input: 'Hello', max_output_tokens: 24 })
  assert((await stream.finalResponse()).output_text)
  const format = { type: 'json_schema', name: 'mood', schema, strict: true }
  const shaped = await client.responses.parse({ model, input: 'All is well.', text: { format } })
  assert(['good', 'bad'].includes(JSON.parse(shaped.output_text).mood))
}

async function train() {
  const training_file = (await client.files.create({ file: createReadStream(process.env.TRAINING_FILE), purpose: 'fine-tune' })).id
  const job = await client.fineTuning.jobs.create({ model, training_file, method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 1 } } } })
  const done = await until(() => client.fineTuning.jobs.retrieve(job.id))
  assert.equal(done.status, 'succeeded')
  assert((await client.chat.completions.create({ model: done.fine_tuned_model, messages, max_tokens: 4 })).choices.length)
}

async function sendBatch() {
  const line = { custom_id: 'one', method: 'POST', url: '/v1/chat/completions', body: { model, messages, max_tokens: 8 } }
  const file = await client.files.create({ file: await toFile(Buffer.from(JSON.stringify(line)), 'batch.jsonl'), purpose: 'batch' })
  const batch = await client.batches.create({ input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' })
  const done = await until(() => client.batches.retrieve(batch.id))
  assert.equal(done.status, 'completed')
  const lines = await (await client.files.content(done.output_file_id)).text()
  assert.equal(JSON.parse(lines).custom_id, 'one')
}

await ask()
await respond()
const refused = (error) => error instanceof NotFoundError && error.code === 'not_served'
await assert.rejects(client.embeddings.create({ model, input: 'text' }), refused)
await train()
await sendBatch()
