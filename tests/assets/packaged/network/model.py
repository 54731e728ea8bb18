from .layers import Block


class Network(Block):
    def __init__(self, size: int = 3):
        super().__init__(size)
