"""Answer POSTed pictures with their classes: python examples/serve.py EXPORT_FOLDER PORT"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ppema.errors import DataError
from ppema.export import Predictor

predictor = Predictor(sys.argv[1])


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            code, answer = 200, predictor(self.rfile.read(int(self.headers["Content-Length"] or 0)))
        except (DataError, ValueError) as error:
            code, answer = 400, {"error": str(error)}
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
